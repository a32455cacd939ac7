"""Statistics: numpy and scipy in, numbers with their n and interval out. Knows nothing of models or rollouts."""
