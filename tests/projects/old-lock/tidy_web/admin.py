def main() -> None:
    print("no server")
