"""What several tests share: plain values, parts of the engine on real servers, pipelines."""
