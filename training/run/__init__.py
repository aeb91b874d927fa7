"""A recipe from its pictures to its bundle: the plan, and what each kind of step needs and does."""
