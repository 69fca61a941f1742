"""The decisions of a campaign as generators: they yield requests and touch no clock, disk or chance."""
