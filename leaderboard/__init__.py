"""The leaderboard: result records in, tables with their spread out. Imports no other room and no torch."""
