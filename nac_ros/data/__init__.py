"""Datasets: LeRobot v3 and HDF5 on disk, chunks and frames cut from them, demonstrations made."""
