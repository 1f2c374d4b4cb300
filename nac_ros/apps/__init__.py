"""Programs that start a graph of nodes: demo, doctor, fault injection, episode replay."""
