from third_party import oven


def main() -> None:
    print(oven.HEAT)
