"""Published features in the formats that vision-and-language code reads: one module for each family."""
