"""The 2x schedule: 24 epochs of SGD, the learning rate tenfold lower after epochs 16 and 22. For 16 images a step."""
_base_ = './schedule_1x.py'
max_epochs = 24
