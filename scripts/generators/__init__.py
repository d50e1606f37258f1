"""What is written from the code and kept in the repository: access rules, and reference pages."""
