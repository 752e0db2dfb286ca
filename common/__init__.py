"""What every part but `models` may use: the error that users see, whole files, progress."""
