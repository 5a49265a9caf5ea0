"""What must hold, watched all the time and looked at in the end."""
