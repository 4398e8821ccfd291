"""`detect_drift`: whether texts are still such as a release was trained on."""
