"""The page of evidence as HTML, Markdown and on the terminal."""
