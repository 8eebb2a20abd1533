"""Device profiles and what they predict."""
