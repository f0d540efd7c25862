"""The gallery: a static page beside the images, with its data in scripts and its thumbnails."""
