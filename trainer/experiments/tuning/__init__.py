"""Search for better settings on the validation part: what may vary, a study that resumes, and the settings it finds."""
