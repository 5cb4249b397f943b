//! The routes, with tokens of an administrator, of a viewer, and of an owner of a home.
