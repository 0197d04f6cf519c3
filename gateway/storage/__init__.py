"""The books: SQLAlchemy tables and queries."""
