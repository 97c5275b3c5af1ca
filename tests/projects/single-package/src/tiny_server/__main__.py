print("tiny server")
