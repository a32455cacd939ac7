"""Deploy: which revision serves whom, by rollouts judged on live evidence, and the routing table that tells servers."""
