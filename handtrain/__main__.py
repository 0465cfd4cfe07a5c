from handtrain.cli import main

main()
