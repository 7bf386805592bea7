"""Tests in a headless Chromium. A package, so that its server and its Chromium end with it."""
