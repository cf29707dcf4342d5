"""Files, windows and jobs: video in and out."""
