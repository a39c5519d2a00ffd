"""The training scripts that a submission holds, as files."""
