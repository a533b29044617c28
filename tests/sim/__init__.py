"""A simulator of whole clusters: real shards in a made-up world that one number determines."""
