"""One linear SVM a class on frozen C5, pooled to 2 x 2: VOC07 trainval to test, mAP.

AP is the area under the monotone precision-recall curve (VOC 2010's kit), as in the literature on these features, not
VOC 2007's 11 points.
"""
# Version 2: images squeezed instead of cropped, C5 pooled to 2 x 2 instead of 1, 19 costs instead of 26.
task = dict(
    name='voc07_svm', version=2, kind='svm', main_metric='mAP', metrics=['mAP'],
    source="DetCo (arXiv 2102.04803), Table 8, column VOC07, by the tools in its repository, benchmarks/svm_tools and "
           "extract_info/voc07.py. They are OpenSelfSup's, whose model zoo has the column's MoCo v1 (79.18) and, until "
           "September 2020, its MoCo v2 (84.05), both of feat5. Behind them stands Goyal et al. (arXiv 1905.01235), "
           "fair_self_supervision_benchmark, whose example takes seven costs more, 10^-7 to 10^-1",
    differences=[
        "Features are kept as float16 and, on a GPU, computed in bfloat16; the published ones are float32. The effect "
        "has not been measured.",
        "The machines' random order comes from the row's seed; the published tools seed nothing."])
data = dict(source='voc07_labels', resize=256, squeeze=224)
features = dict(grid=2)  # feat5: averages of 6 x 6 of the 7 x 7 cells, 8192 numbers of a ResNet-50
svm = dict(
    costs=[1.0, 10.0, 100.0, *(2.0**-i for i in range(4, 20))],  # of equals the first is taken
    folds=3, positive_weight=2.0,
    machine=dict(penalty='l2', loss='squared_hinge', dual=True, tol=1e-4, max_iter=2000, intercept_scaling=1.0))
