"""Where images are kept: names, the output folder, and what an image file must be."""
