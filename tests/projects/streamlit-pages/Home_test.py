from streamlit.testing.v1 import AppTest

assert AppTest
