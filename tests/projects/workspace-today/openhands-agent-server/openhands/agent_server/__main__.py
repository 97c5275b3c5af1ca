print("agent server")
