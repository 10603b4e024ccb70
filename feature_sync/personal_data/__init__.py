"""What Tandem stores of one user, place by place: exported, and erased."""
