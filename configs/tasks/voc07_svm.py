"""One linear SVM a class on frozen, pooled C5: VOC07 trainval to test, mAP.

AP is the area under the monotone precision-recall curve (VOC 2010's kit), as in the literature on these features, not
VOC 2007's 11 points.
"""
task = dict(
    name='voc07_svm', version=1, kind='svm', main_metric='mAP', metrics=['mAP'],
    source="Goyal et al. (arXiv 1905.01235), fair_self_supervision_benchmark's tools/svm; pooled features as PCL "
           "(arXiv 2005.04966); DetCo (arXiv 2102.04803), Table 8")
# Resize and centre crop as PCL and VirTex, who pool C5 globally as this row does. Goyal et al. squeeze the whole
# image to 224 x 224 and pool C5 to 2 x 2.
data = dict(source='voc07_labels', resize=256, crop=224)
svm = dict(
    # Goyal et al.: 10^-7 to 10^2 and 2^-19 to 2^-4, three folds.
    costs=sorted([10.0**i for i in range(-7, 3)] + [2.0**-i for i in range(4, 20)]), folds=3, positive_weight=2.0,
    machine=dict(penalty='l2', loss='squared_hinge', dual=True, tol=1e-4, max_iter=2000, intercept_scaling=1.0))
