"""Conversations: kept in SQL, changed under a lock."""
