"""What is true of one robot (joints, limits, cameras, links) and geometry computed from it; numpy alone."""
