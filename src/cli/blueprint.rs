//! `aqueduct check` and `aqueduct try`: blueprints from the command line.
