"""What a run leaves behind: image files, the index, galleries and exports."""
