"""A spec as a runnable model: numpy reference, tf_keras, n-gram baselines."""
