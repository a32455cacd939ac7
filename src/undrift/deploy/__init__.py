"""Deploy: the data plane (decode, route, predict, capture) and the rollout that decides who gets which revision."""
