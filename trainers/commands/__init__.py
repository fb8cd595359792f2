"""The commands of the trainers, one file each; they import what they need when they are called."""
