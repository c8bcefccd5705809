"""The 2x schedule: 24 epochs of SGD; the learning rate is divided by 10 after epochs 16 and 22. For a total batch size of 16."""
_base_ = './schedule_1x.py'
max_epochs = 24
