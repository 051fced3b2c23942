from . import convolutions as convolutions, cpu as cpu, processes as processes, sharding as sharding
