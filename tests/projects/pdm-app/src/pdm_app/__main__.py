from pdm_app import main

main()
