"""How the shipped bisenet-lite was trained."""
