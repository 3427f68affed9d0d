"""The door to SSH: Fabric opens one connection a node, once; everything else is a channel on it."""
