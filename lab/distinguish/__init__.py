"""`catflap lab distinguish`: an attacker with a clean and a contained key looks for any difference but the words."""
