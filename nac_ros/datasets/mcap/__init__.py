"""Recorded episodes: rosbag2 folders with MCAP files, their recorder, reader and resampler."""
