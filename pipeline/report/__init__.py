"""What people read about a build: progress while it runs, a summary when it is over."""
