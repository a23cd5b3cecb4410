"""Many runs compared: studies, reports, pictures of credit."""
