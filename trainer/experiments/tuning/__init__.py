"""Search for better settings on the validation part: the search space, a study that resumes, the file it writes."""
