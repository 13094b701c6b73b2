# 12k on a share of COCO's train2017; the share is the schedule's name.
_base_ = ['./sgd.py']

schedules = {
    f'{share}%': dict(iterations=12000, milestones=[9000, 11000], share=share) for share in (10, 5, 2, 1)}
