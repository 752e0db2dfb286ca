"""What every part but `models` may use: the error that users see, and files that are whole or absent."""
