"""The soak: many visitors and faults for minutes on end, and every answer compared with its solo run."""
