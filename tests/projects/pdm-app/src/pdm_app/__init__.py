def main() -> None:
    print("served")
