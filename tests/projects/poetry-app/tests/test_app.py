from cook_book import app
